"""The families of generative models, one folder each, with the same file names in every folder."""

"""Mathematics on arrays: no parameters, no config; written for one example and mapped at the edge."""

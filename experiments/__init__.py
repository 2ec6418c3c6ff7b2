"""The experiments: one module a run, each with `get_config(preset)`, `validate(config)` and `build(config)`.

`python -m experiments` lists them.
"""

"""The experiments: one module a run, each with its docstring, `get_config(preset)`, `validate(config)` and
`build(config)`. `python -m experiments` lists them.
"""

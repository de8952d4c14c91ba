"""The verbs of the command line, one module each: a frozen dataclass of options with a ``run`` method.

These modules import nothing heavy at the top, so that ``motionstream --help`` is fast.
"""

"""The verbs of the command line, one module each: a frozen dataclass of options whose ``run`` does the work.

Nothing heavy is imported at the top of these modules, so that ``motionstream --help`` answers at once.
"""

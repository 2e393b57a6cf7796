"""A page to look at what saved models recommend, on this machine only.

``python -m skmatch.explore model.joblib [other.joblib] [--items items.csv]`` serves it; it needs
``pip install 'skmatch[app]'``. See ``--help`` for the rest.
"""

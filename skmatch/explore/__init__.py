"""A local web page that shows what saved models recommend, and why.

``skmatch explore model.joblib [other.joblib] [--items items.csv]`` serves it; it needs
``pip install starlette uvicorn``. See ``--help`` for the rest.
"""

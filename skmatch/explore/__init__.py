"""A local web page that shows the recommendations of saved models, and their reasons.

``skmatch explore model.joblib [other.joblib] [--items items.csv]`` serves it; it needs
``pip install starlette uvicorn``. See ``--help`` for the rest.
"""

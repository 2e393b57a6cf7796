"""A local web page that shows the recommendations of saved models.

``skmatch explore model.joblib [other.joblib] [--items items.csv]`` serves it; it needs
``pip install 'skmatch[app]'``. See ``--help`` for the rest.
"""

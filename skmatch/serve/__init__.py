"""The command ``skmatch serve``: recommendations over HTTP.

It needs the extra `serve`: ``pip install "skmatch[serve]"``.
"""

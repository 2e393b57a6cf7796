"""The command ``skmatch serve``: recommendations over HTTP.

It needs the packages of the extra `serve`.
"""

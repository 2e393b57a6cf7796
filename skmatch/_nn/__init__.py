"""The networks and their training: the only folder that imports torch; it imports no scikit-learn.

Shapes in comments: R rows (one positive each), T tokens (items of histories), D embedding width,
V vector width, M distinct items of a step, N negatives of a row.
"""

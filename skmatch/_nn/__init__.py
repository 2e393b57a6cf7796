"""The networks and their training: the only folder that imports torch; it imports no scikit-learn.

Shapes in comments: R rows (a positive each), B blocks of neighbouring rows, S tokens (items of
histories) of a block, L events of a history, D embedding width, V vector width, M distinct items of
a step, N candidates.
"""

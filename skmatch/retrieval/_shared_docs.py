"""What the docstrings of the neural retrievers have in common."""

from __future__ import annotations

import textwrap

PARAMETERS = """\
activation : {"relu", "prelu", "gelu", "tanh"}, default="gelu"
    Activation after each layer but the last.
dropout : float, default=0.1
    Share of what is dropped from the pooled history and after each hidden layer.
id_dropout : float, default=0.02
    Share of the ids and of the values of features that training takes for unknown [4]_, so that
    whoever and whatever is unknown later gets a trained answer. It concerns users, items of
    histories, all features and, where items have any, the items of the item tower. Users and items
    of the catalogue that have no event to learn from then count as unknown, too.
batch_norm : bool, default=False
    Whether hidden layers are batch-normalised.
skip_connection : bool, default=True
    Whether a linear map of what a tower reads is added to what its layers make of it [6]_.
init : {"cooccurrence", "random"}, default="cooccurrence"
    Where the embeddings of items begin. "cooccurrence": near those of the items that users touch
    shortly before or after them, by a factorisation of their counts [7]_; the 100,000 items of
    most events begin so, all others at random. Training then takes fewer epochs.
pooling : {"mean", "sum", "max", "concat", "decay", "attention"} or callable, default="decay"
    How a history becomes one vector. "decay": weighted means whose weights fall exponentially
    with the number of events since, side by side, at four rates that are learned. "attention":
    six of these, and beside them the answer of up to four heads of attention that the means ask
    [5]_; it learns more, and takes more time. "mean", "sum" and "max": of the embeddings;
    "concat": the embeddings, newest first. A callable ``(dim, max_length) -> module`` makes a
    `torch.nn.Module` that maps a history to one vector per row; the guide on towers shows one.
n_estimators : int, default=1
    Number of networks that train, each from weights, in an order and on draws of its own [8]_.
    Their vectors are concatenated, so that a score is the mean of the members' cosines. Two rank
    better than one, and take twice the time.
temperature : float, default=0.05
    What cosines are divided by, in every loss.
loss : {"softmax", "bpr", "bce"}, default="softmax"
    "softmax" is list-wise: the step's positives share 256 times `neg_ratio` negatives, with logQ
    correction. "bpr" is pair-wise [2]_ and "bce" point-wise, with `neg_ratio` negatives for each
    positive. `SequenceSampler` says how negatives are drawn.
max_epochs : int, default=6
    Number of passes over the events.
batch_size : int or "auto", default="auto"
    Number of positives in a step. "auto" makes 400 steps per epoch, within the bounds of 64 and
    2,048 positives.
lr : float, default=0.006
    Highest learning rate of AdamW [3]_: it rises for a tenth of the steps, then falls along a
    cosine. `partial_fit` trains at 0.15 of it.
weight_decay : float, default=0.0
    Decoupled weight decay of matrices and embeddings; biases, scales and half-lives do not decay.
early_stopping : bool, default=False
    Whether to hold out the last event of some users, measure NDCG@10 on it after each epoch, stop
    when that no longer improves and keep the best weights.
validation_fraction : float, default=0.1
    Share of the users whose last event is held out.
n_iter_no_change : int, default=5
    Number of epochs without improvement after which training stops.
warm_start : bool, default=False
    Whether `fit` continues from the weights of the last fit. The ids and features must be the
    same. What a `Checkpoint` saved goes on with the epoch after.
device : {"auto", "cpu", "cuda", "mps"}, default="auto"
    Where to train; "auto" takes a GPU where there is one. Answers come from the CPU.
precision : {"float32", "bfloat16"}, default="float32"
    Of the matrix products of training. Weights, losses and all vectors that are given out are
    float32 in any case. "bfloat16" is for GPUs; a CPU without units for it gets slower.
random_state : int, RandomState instance or None, default=None
    Seeds weights, draws and dropout. An int gives the same result bit for bit on one machine
    with one number of threads.
verbose : bool or int, default=False
    Whether to show a progress bar, in a terminal or a notebook.
index : {"exact", "auto", "pynndescent"}, default="exact"
    How the nearest items are found; see `skmatch.neighbors.ItemIndex`. "auto" is "exact" up to
    100,000 items and "pynndescent" above. The graph of "pynndescent" is not saved: the first search
    after loading builds it anew.
k : int, default=10
    Number of items that `predict` and `recommend` return per query.
exclude_seen : bool, default=True
    Whether recommendations leave out what the user has interacted with: the default of `predict`,
    `recommend`, `score` and of what early stopping validates."""

ATTRIBUTES = """\
item_vectors_ : ndarray of shape (n_items, n_dims), float32
    Vectors of the catalogue.
item_ids_ : ndarray of shape (n_items,)
    Ids of the catalogue, in the order of `item_vectors_`.
counts_ : ndarray of shape (n_items,)
    Number of events of each item, or the sum of their weights.
popularity_ : ndarray of shape (n_items,)
    Share of each item in `counts_`; the scores of queries about which nothing is known.
n_iter_ : int
    Number of epochs trained.
loss_curve_ : list of float
    Mean loss of each epoch.
validation_curve_ : list of float or None
    NDCG@10 on the held-out events after each epoch, with `early_stopping`.
weights_ : dict of str to ndarray
    Weights of the network.
training_state_ : dict or None
    In what a `Checkpoint` saved, all that the epochs to come depend on; None after a whole fit.
network_config_ : dict
    Sizes and options that the network was built with.
index_ : ItemIndex
    Index of `item_vectors_`.
schema_ : Schema
    Roles, ids and features of the events.
n_features_in_ : int
    Number of columns seen during fit, where it got plain events.
feature_names_in_ : ndarray of shape (`n_features_in_`,)
    Names of the columns seen during fit, where it got a frame of plain events."""

REFERENCES = """\
.. [2] S. Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback",
   UAI 2009.
.. [3] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization",
   ICLR 2019.
.. [4] M. Volkovs, G. Yu and T. Poutanen, "DropoutNet: Addressing cold start in recommender
   systems", NeurIPS 2017.
.. [5] A. Vaswani et al., "Attention is all you need",
   NeurIPS 2017.
.. [6] H.-T. Cheng et al., "Wide & deep learning for recommender systems", DLRS 2016.
.. [7] N. Halko, P. G. Martinsson and J. A. Tropp, "Finding structure with randomness:
   Probabilistic algorithms for constructing approximate matrix decompositions",
   SIAM Review 2011.
.. [8] B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive
   uncertainty estimation using deep ensembles", NeurIPS 2017."""


def with_shared_docs(cls: type) -> type:
    """Put what the retrievers share into the places that a docstring leaves for it."""
    shared = {"parameters": PARAMETERS, "attributes": ATTRIBUTES, "references": REFERENCES}
    for name, text in shared.items():
        indented = textwrap.indent(text, "    ").lstrip()
        cls.__doc__ = (cls.__doc__ or "").replace(f"{{{name}}}", indented)
    return cls

"""The parts that the docstrings of retrievers share."""

from skmatch._docs import fill_docs

FIT = """\
Parameters
----------
X : Samples, DataFrame, array-like of shape (n_events, n_columns), or Parquet
    What the `fit_transform` of a `SequenceSampler` returned. Plain events, also in Parquet,
    are encoded and sampled with the defaults of `MatchEncoder` and `SequenceSampler`.
y : None
    Ignored.
sample_weight : array-like of shape (n_events,) or None, default=None
    Weight of each event as a target: an event of weight 2 counts as two events; an event of
    weight 0 is in the history and seen, but no target.
users, items : DataFrame or None, default=None
    Tables for the `MatchEncoder`, where `X` holds plain events.

Returns
-------
self : estimator instance"""

RANKING = """\
k : int, default=10
    Number of items that `predict` and `recommend` return per query.
exclude_seen : bool, default=True
    Whether recommendations exclude items that the user has interacted with: the default of
    `predict`, `recommend` and `score`."""

TREND = """\
trend : duration, "auto" or None, default="auto"
    Half-life of the popularity that scores follow, in the unit of the times or as a timedelta for
    datetimes: the likelihood of an item is multiplied by the ratio of its share of the recent
    events before the time of the query to its share of all events, to the power of 0.75 where the
    query begins a visit, of 0.25 within a visit, and of 0.5 where the `SequenceSampler` has found
    no visits. "auto" chooses the half-life by which popularity ranks the next events best,
    see `PopularityRetriever`. None, or events without times: no trend. Queries without a time
    are as of the latest event that was trained on."""

TREND_ATTRIBUTES = """\
trend_ : ndarray of shape (n_items,), float32, or None
    Logarithm of the ratio of each item's share of recent events to its share of all events, as of
    the latest event.
counts_over_time_ : object or None
    Counts of items as of any time; ``counts_over_time_.half_life`` is the half-life, in the unit of
    the times (nanoseconds for datetimes)."""

CATALOGUE = """\
counts_ : ndarray of shape (n_items,)
    Number of events of each item, or the sum of their weights.
popularity_ : ndarray of shape (n_items,)
    Share of each item in `counts_`: the scores for queries of which nothing is known.
item_ids_ : ndarray of shape (n_items,)
    Item ids, in the order of the catalogue.
schema_ : Schema
    Roles, ids and features of the events.
n_features_in_ : int
    Number of columns of `X`, if `fit` got plain events.
feature_names_in_ : ndarray of shape (`n_features_in_`,)
    Column names of `X`, if `fit` got a frame of plain events."""

NEURAL_PARAMETERS = """\
activation : {"relu", "prelu", "gelu", "tanh"}, default="gelu"
    Activation after each layer except the last.
dropout : float, default=0.1
    Dropout rate of the pooled history and of each hidden layer.
id_dropout : float or "auto", default="auto"
    Share of ids and feature values that training replaces by the unknown id [4]_, which trains the
    vectors of cold users, new items and unseen values. It applies to users, to items of histories,
    to all features and, if items have features, to the ids of the item tower. "auto" is 0.1 if
    items have features and 0.02 otherwise.
batch_norm : bool, default=False
    Whether hidden layers are batch-normalised.
skip_connection : bool, default=True
    Whether to add a linear map of each tower's input to its output [6]_.
init : {"cooccurrence", "random"}, default="cooccurrence"
    Initialisation of the item embeddings. "cooccurrence" factorises the counts of items that users
    interact with shortly after one another [7]_, for the 100,000 most frequent items; all others
    start at random. Training then needs fewer epochs.
pooling : {"mean", "sum", "max", "concat", "decay", "attention"} or callable, default="decay"
    How a history becomes one vector. "mean", "sum" and "max" pool the embeddings. "concat"
    concatenates them, newest first. "decay" concatenates four weighted means whose weights fall
    exponentially with the number of events since, at learned rates. "attention" concatenates six of
    these means and up to four attention heads that have the means as queries [5]_; it learns more
    and trains slower. A callable ``(dim, max_length) -> module`` returns a `torch.nn.Module` that
    maps a history to one vector per row; the guide on towers shows one.
n_estimators : int, default=1
    Number of networks trained with different seeds [8]_. Their vectors are concatenated, so that a
    score is the mean of their cosines. Two rank better than one and take twice the time.
temperature : float, default=0.05
    Divisor of the cosines in every loss.
loss : {"softmax", "bpr", "bce"}, default="softmax"
    "softmax" is list-wise: the positives of a batch share 256 times `neg_ratio` negatives, with
    logQ correction. "bpr" is pair-wise [2]_ and "bce" point-wise, with `neg_ratio` negatives per
    positive. `SequenceSampler` sets how negatives are drawn.
max_epochs : int or "auto", default="auto"
    Number of passes over the events. "auto" trains in cycles of the learning rate that end after
    1, 2, 4 and 8 epochs [9]_, and stops after a cycle that lowers the score of held-out events, as
    `early_stopping` computes it, by more than 1%; the weights are those of the cycle before.
batch_size : int or "auto", default="auto"
    Number of positives per step. "auto" takes 512, or as many as make 400 to 2,000 steps per epoch,
    64 to 2,048.
lr : float, default=0.006
    Peak learning rate of AdamW [3]_: linear warm-up over the first tenth of the steps, then cosine
    decay; with ``max_epochs="auto"`` in each cycle. `partial_fit` trains at 0.15 of it.
weight_decay : float, default=0.0
    Decoupled weight decay of matrices and embeddings; biases, scales and half-lives do not decay.
early_stopping : bool, default=False
    Whether to hold out the last event of some users, compute NDCG@100 on it after each epoch (as
    `score` does with ``k=100``), stop when it no longer improves and restore the best weights.
validation : {"both", "next", "visit"}, default="both"
    What validation measures. With "next", held-out events have the history up to the event; with
    "visit", the history before their visit, where there is one; "both" averages over all of these
    queries. All are equal where the `SequenceSampler` finds no visits.
validation_fraction : float or "auto", default="auto"
    Share of the users whose last event is held out. "auto" is a tenth of the users, but at
    least 2,000 users, or half of them if there are fewer than 4,000.
n_iter_no_change : int, default=5
    Number of epochs without improvement before training stops.
warm_start : bool, default=False
    Whether `fit` continues from the weights of the last fit, on the same ids and features. A
    retriever loaded from a `Checkpoint` continues with the next epoch.
device : {"auto", "cpu", "cuda", "mps"}, default="auto"
    Device to train on; "auto" takes a GPU if there is one. Recommendations run on the CPU.
precision : {"float32", "bfloat16"}, default="float32"
    Precision of the matrix products in training; weights, losses and returned vectors are always
    float32. "bfloat16" is for GPUs and for CPUs that support it.
random_state : int, RandomState instance or None, default=None
    Seed of weights, sampling and dropout. An int makes results bit-identical on one machine with
    one number of threads.
verbose : bool or int, default=False
    Whether to show a progress bar, in a terminal or a notebook.
index : {"exact", "int8", "auto", "pynndescent"}, default="exact"
    Search method, see `skmatch.neighbors.ItemIndex`. "auto" is "exact" up to 100,000 items and
    "pynndescent" above. The graph of "pynndescent" and the integers of "int8" are not saved: the
    first search after loading builds them again."""

NEURAL_ATTRIBUTES = """\
item_vectors_ : ndarray of shape (n_items, n_dims), float32
    Item vectors, in the order of `item_ids_`.
temperature_ : float
    Temperature of the training.
n_iter_ : int
    Number of epochs trained.
loss_curve_ : list of float
    Mean training loss of each epoch.
validation_curve_ : list of float or None
    NDCG@100 on the held-out events after each epoch, with `early_stopping` or
    ``max_epochs="auto"``.
weights_ : dict of str to ndarray
    Weights of the network.
training_state_ : dict or None
    State from which a fit that a `Checkpoint` saved continues; None after a complete fit.
network_config_ : dict
    Sizes and options of the network.
index_ : ItemIndex
    Index of `item_vectors_`."""

NEURAL_REFERENCES = """\
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
   uncertainty estimation using deep ensembles", NeurIPS 2017.
.. [9] I. Loshchilov and F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
   ICLR 2017."""

with_shared_docs = fill_docs(
    fit=FIT,
    ranking=RANKING,
    trend=TREND,
    trend_attributes=TREND_ATTRIBUTES,
    catalogue=CATALOGUE,
    parameters=f"{NEURAL_PARAMETERS}\n{TREND}\n{RANKING}",
    attributes=f"{NEURAL_ATTRIBUTES}\n{TREND_ATTRIBUTES}\n{CATALOGUE}",
    references=NEURAL_REFERENCES,
)

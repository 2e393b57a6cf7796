"""
A self-attention encoder of your own
====================================

``pooling`` also takes a callable ``(dim, max_length) -> module``: a `torch.nn.Module` that maps
histories to a vector each. Here it is the causal self-attention of SASRec (Kang and McAuley, ICDM
2018), compared with the default, weighted means.
"""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

from skmatch import LeaveLastOut, YoutubeDNNRetriever, evaluate
from skmatch.datasets import load_movielens_small


class SelfAttention(nn.Module):
    """Blocks of causal self-attention; the newest event's output stands for the history."""

    def __init__(self, dim, max_length, n_blocks=1, n_heads=2, dropout=0.2):
        super().__init__()
        self.position = nn.Parameter(torch.randn(max_length, dim) / dim**0.5)
        options = {"dropout": dropout, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, n_heads, 4 * dim, **options) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, history):
        """Return (n_rows, dim); `windows` are (n_rows, length, dim), padded before the oldest."""
        tokens = history.windows()[:, -20:]  # of the last 20 events
        n_tokens = tokens.shape[1]
        hidden = tokens * tokens.shape[2] ** 0.5 + self.position[-n_tokens:]
        later = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=tokens.device).triu(1)
        itself = torch.eye(n_tokens, dtype=torch.bool, device=tokens.device)
        hidden_from = (later | history.is_padding()[:, None, -n_tokens:]) & ~itself
        for block in self.blocks:
            n_heads = block.self_attn.num_heads
            hidden = block(hidden, src_mask=hidden_from.repeat_interleave(n_heads, 0))
        return self.norm(hidden[:, -1]) * (history.length > 0)[:, None]


# %%
# Nothing else changes: the loss, the negatives, saving and serving are those of the library. Few
# users and epochs keep this example short; attention needs more of both than weighted means do.

events = load_movielens_small()
events = events[events["user_id"] <= 150]  # to keep the example short
train, test = (events.iloc[rows] for rows in next(LeaveLastOut().split(events)))
tables = {}
for name, pooling in {"decay (default)": "decay", "self-attention": SelfAttention}.items():
    retriever = YoutubeDNNRetriever(embedding_dim=32, pooling=pooling, max_epochs=3, random_state=0)
    retriever.fit(train)
    tables[name] = evaluate(retriever, test, "recall", k=[10, 20, 50, 100]).set_index("k")["value"]
pd.DataFrame(tables).plot.bar(ylabel="recall@k", rot=0)
plt.show()

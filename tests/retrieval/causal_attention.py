"""A pooling of the user's own, in a module that another process can import."""

import torch
from torch import nn


class CausalAttention(nn.Module):
    def __init__(self, dim, max_length):
        super().__init__()
        self.position = nn.Parameter(torch.randn(max_length, dim) / dim**0.5)
        self.attention = nn.MultiheadAttention(dim, 2, dropout=0.1, batch_first=True)

    def forward(self, history):
        tokens = history.windows()
        n_tokens = tokens.shape[1]
        hidden = tokens + self.position[-n_tokens:]
        hidden_from = history.is_padding()[:, None] & ~torch.eye(
            n_tokens, dtype=torch.bool, device=tokens.device
        )
        mask = hidden_from.repeat_interleave(2, 0)
        attended, _ = self.attention(hidden, hidden, hidden, attn_mask=mask, need_weights=False)
        return attended[:, -1] * (history.length > 0)[:, None]

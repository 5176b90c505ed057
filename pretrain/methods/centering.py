"""Centering: keeps the teacher from assigning every token to the same prototype.

Each ends in one vector, the centre (K,), taken from the teacher's logits: `softmax((logits - centre) / temp)`.
`current_centre` gives the centre as `forward` does, and remembers nothing of the tokens.
"""

import torch
from torch import Tensor, nn

from pretrain.methods.across_ranks import logsumexp_over_ranks, sum_over_ranks


class SoftmaxCentering(nn.Module):
    """Centre = running mean of the teacher's logits (DINO). A step sees the centre of the steps before it.

    Tokens are summed before the product with the prototypes, so that a call makes one row of logits and not n.
    """

    def __init__(self, num_prototypes: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(num_prototypes))
        self.register_buffer("logit_sum", torch.zeros(num_prototypes), persistent=False)
        self.register_buffer("token_count", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def forward(self, tokens: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """Teacher tokens (n, bottleneck) of this step -> the centre (K,) to subtract now."""
        with torch.autocast(tokens.device.type, enabled=False):
            self.logit_sum += prototypes @ tokens.sum(0)
        self.token_count += len(tokens)
        return self.centre

    def current_centre(self, tokens: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        return self.centre

    @torch.no_grad()
    def update(self) -> None:
        """After the step: move the centre towards the mean logits of all ranks' tokens since the last call."""
        seen = sum_over_ranks(torch.cat([self.logit_sum, self.token_count[None]]))
        sums, count = seen[:-1], seen[-1]
        # Without a branch, which would wait for the device. Of no tokens at all the centre stays.
        self.centre.lerp_(sums / count.clamp(min=1), (1 - self.momentum) * count.clamp(max=1))
        self.logit_sum.zero_()
        self.token_count.zero_()


class SinkhornKnopp(nn.Module):
    """Centre under which this step's tokens spread evenly over all prototypes (SwAV; DINOv2's other choice).

    Sinkhorn-Knopp scales rows and columns of exp(logits / temp) in turn. The last row scaling is the softmax itself,
    so what remains is one factor a prototype, c_k, and `centre_k = -temp * log c_k`. In the log domain, in blocks.
    Tokens of all ranks spread together; of accumulated batches, each spreads on its own.
    """

    def __init__(self, iterations: int = 3, block_rows: int = 256):
        super().__init__()
        self.iterations = iterations
        self.block_rows = block_rows

    @torch.no_grad()
    def forward(self, tokens: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """Teacher tokens (n, bottleneck) -> centre (K,)"""
        log_c = torch.zeros(len(prototypes), dtype=tokens.dtype, device=tokens.device)
        for iteration in range(self.iterations):
            column = torch.full_like(log_c, -torch.inf)
            for block in tokens.split(self.block_rows):
                scores = (block @ prototypes.T).to(log_c.dtype) / temperature
                if iteration:  # rows first: what each token gives sums to one
                    scores = scores - torch.logsumexp(scores + log_c, dim=1, keepdim=True)
                column = torch.logaddexp(column, torch.logsumexp(scores, dim=0))
            log_c = -logsumexp_over_ranks(column)
        return -temperature * log_c

    def current_centre(self, tokens: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        return self(tokens, prototypes, temperature)

    def update(self) -> None:
        """Nothing is kept between steps."""


class NoCentering(nn.Module):
    """A centre of zeros: nothing holds the teacher back. For experiments that show the collapse."""

    def forward(self, tokens: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """-> centre (K,)"""
        return tokens.new_zeros(len(prototypes))

    current_centre = forward

    def update(self) -> None:
        """Nothing is kept between steps."""

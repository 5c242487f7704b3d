r"""Refinement: iterative residual subtraction of what is left of the batch.

Step 0 is the batch centring of the linear base. Each further step predicts, from the running
representation and a batch embedding, the offset that the batch adds, and subtracts it:

.. math:: z^{(t+1)} = z^{(t)} - U_t\left(\tanh(A_t z^{(t)}) \odot e_t(\text{batch})\right)

The rank (rows of :math:`A_t`) is small and :math:`e_t = 0` at the start, so every step starts as the
identity. Label losses see the offset as a constant: if they could move a batch-conditioned map, a batch
without labels would be left behind by the labelled ones. A batch that was not seen gets no offset.
"""

import torch
from torch import Tensor, nn


class Refinement(nn.Module):
    """``n_steps`` low-rank, batch-conditioned residual steps.

    Parameters
    ----------
    n_latent
        Width of the representation.
    n_domains
        Number of batches, by the modalities measured in them; with one there is nothing to refine.
    n_steps
        Number of steps; 0 switches refinement off.
    rank
        Rank of each step.
    """

    def __init__(self, n_latent: int, n_domains: int, n_steps: int = 2, rank: int = 8):
        super().__init__()
        self.n_steps = n_steps if n_domains > 1 else 0
        self.read = nn.ModuleList(nn.Linear(n_latent, rank) for _ in range(self.n_steps))
        self.write = nn.ModuleList(nn.Linear(rank, n_latent, bias=False) for _ in range(self.n_steps))
        self.embedding = nn.ModuleList(nn.Embedding(n_domains, rank) for _ in range(self.n_steps))
        for parameter in self.embedding.parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, domain: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Refine (cells, n_latent) given (cells,) domain codes (-1 = unseen).

        Returns
        -------
        The offset to add, (cells, n_latent), and the mean squared size of each step.
        """
        seen = (domain >= 0).unsqueeze(1)  # an embedding has no row -1, so row 0 stands in and is taken out again
        offset, sizes = torch.zeros_like(z), []
        for read, write, embedding in zip(self.read, self.write, self.embedding, strict=True):
            step = write(torch.tanh(read(z + offset)) * embedding(domain.clamp_min(0))) * seen
            offset = offset - step
            sizes.append(step.pow(2).sum(1).mean())
        return offset, sizes

"""Masked modelling: likelihood of genes that the view did not show."""

import torch
from scvi.distributions import NegativeBinomialMixture
from torch import Tensor
from torch.nn import functional as F


def masked_negative_binomial(counts: Tensor, mean: Tensor, log_inverse_dispersion: Tensor, hidden: Tensor) -> Tensor:
    r"""Negative log-likelihood of hidden counts under a negative binomial.

    .. math:: -\frac{1}{|H|}\sum_{g \in H} \log \mathrm{NB}(x_{ng} \mid \mu_{ng}, \theta_g)

    Parameters
    ----------
    counts
        Observed counts, (cells, genes). Zeros are targets as well.
    mean
        Expected counts, (cells, genes), positive.
    log_inverse_dispersion
        :math:`\log\theta_g`, (genes,).
    hidden
        Boolean (genes,): genes that were hidden from the view.

    Returns
    -------
    Mean negative log-likelihood per hidden gene, (cells,). Zeros when nothing is hidden.

    Notes
    -----
    Terms that do not depend on the parameters are kept, so that values are true likelihoods.
    """
    if not hidden.any():
        return mean.sum(1) * 0.0
    x, mu, theta = counts[:, hidden], mean[:, hidden].clamp_min(1e-6), log_inverse_dispersion[hidden].exp()  # not log 0
    # scvi-tools' NegativeBinomial says the same and takes twice as long, which a step of training would feel
    log_total = torch.log(theta + mu)
    log_likelihood = (
        torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1.0)
        + theta * (torch.log(theta) - log_total)
        + x * (torch.log(mu) - log_total)
    )
    return -log_likelihood.mean(1)


def masked_gaussian(values: Tensor, mean: Tensor, log_scale: Tensor, hidden: Tensor) -> Tensor:
    r"""Negative log-likelihood of hidden log-normalised values under a Gaussian.

    Parameters
    ----------
    values, mean
        Observed and expected values, (cells, genes).
    log_scale
        :math:`\log\sigma_g`, (genes,).
    hidden
        Boolean (genes,): genes that were hidden from the view.

    Returns
    -------
    Mean negative log-likelihood per hidden gene up to a constant, (cells,).
    """
    if not hidden.any():
        return mean.sum(1) * 0.0
    log_s = log_scale[hidden]
    return (0.5 * ((values[:, hidden] - mean[:, hidden]) / log_s.exp()) ** 2 + log_s).mean(1)


def masked_bernoulli(values: Tensor, logits: Tensor, hidden: Tensor) -> Tensor:
    r"""Negative log-likelihood of "open" (a value above 0) under a Bernoulli.

    Parameters
    ----------
    values, logits
        Counts or 0/1 and the logits of "open", (cells, peaks).
    hidden
        Boolean (peaks,): peaks that were hidden from the view.

    Returns
    -------
    Mean negative log-likelihood per hidden peak, (cells,).
    """
    if not hidden.any():
        return logits.sum(1) * 0.0
    is_open = (values[:, hidden] > 0).float()
    return F.binary_cross_entropy_with_logits(logits[:, hidden], is_open, reduction="none").mean(1)


def masked_negative_binomial_mixture(
    counts: Tensor,
    background: Tensor,
    foreground: Tensor,
    mixing_logits: Tensor,
    log_inverse_dispersion: Tensor,
    hidden: Tensor,
) -> Tensor:
    r"""Negative log-likelihood of antibody counts under background and foreground (scvi-tools' mixture, as in totalVI).

    Parameters
    ----------
    counts, background, foreground
        Observed counts and the means of both parts, (cells, antibodies).
    mixing_logits
        Logit of background, (cells, antibodies).
    log_inverse_dispersion
        :math:`\log\theta`, (antibodies,).
    hidden
        Boolean (antibodies,): antibodies that were hidden from the view.

    Returns
    -------
    Mean negative log-likelihood per hidden antibody, (cells,).
    """
    if not hidden.any():
        return foreground.sum(1) * 0.0
    mixture = NegativeBinomialMixture(
        mu1=background[:, hidden],
        mu2=foreground[:, hidden],
        theta1=log_inverse_dispersion[hidden].exp().expand(len(counts), -1),
        mixture_logits=mixing_logits[:, hidden],
        validate_args=False,
    )
    return -mixture.log_prob(counts[:, hidden]).mean(1)

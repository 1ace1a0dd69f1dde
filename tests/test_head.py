"""The output head: the same numbers and gradients as full logits, in chunks, for every last step we know."""

from types import SimpleNamespace

import pytest
import torch

from irpo.scoring import head as heads
from irpo.scoring.head import chunks, read_logprobs, soft_cap

CONFIGS = {
    "plain": {},
    "gemma-2": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "all": {"final_logit_softcapping": 2.0, "logits_scaling": 0.5, "logit_scale": 0.3},
}
VOCABULARY = 11


def reads(cells, count, generator):
    cell = torch.randint(cells, (count,), generator=generator).sort().values
    token = torch.randint(VOCABULARY, (count,), generator=generator)
    return (cell, token), tuple(int((cell <= n).sum()) for n in range(cells))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_same_as_full_logits(name, bias, frozen, monkeypatch):
    """Values and the states' gradients, with two cells a chunk, several reads of one cell and none of another."""
    monkeypatch.setattr(heads, "HEAD_BYTES", 2 * 4 * VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    config = SimpleNamespace(vocab_size=VOCABULARY, **CONFIGS[name])
    linear = torch.nn.Linear(6, VOCABULARY, bias=bias).requires_grad_(not frozen)
    states = (3 * torch.randn(7, 6, generator=generator)).requires_grad_()
    at, ends = reads(7, 12, generator)
    weights = torch.randn(12, generator=generator)
    found = read_logprobs(linear, config, states, at, ends)
    expected = soft_cap(linear(states), config).log_softmax(-1)[at]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    parameters = [states, *([] if frozen else linear.parameters())]
    ours = torch.autograd.grad((found * weights).sum(), parameters, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weights).sum(), parameters), atol=1e-5, rtol=1e-4)


def test_no_tensor_with_a_vocabulary_is_larger_than_the_budget(monkeypatch):
    """Whatever the number of cells, with gradient and without."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and VOCABULARY in tensor.shape and tensor.shape[0] != VOCABULARY:
                    sizes.append(tensor.numel() * tensor.element_size())
            return out

    budget = 5 * 4 * VOCABULARY
    monkeypatch.setattr(heads, "HEAD_BYTES", budget)
    linear = torch.nn.Linear(6, VOCABULARY, bias=False).requires_grad_(False)
    at, ends = reads(64, 100, torch.Generator().manual_seed(0))
    with Watch():
        states = torch.randn(64, 6, requires_grad=True)
        read_logprobs(linear, SimpleNamespace(vocab_size=VOCABULARY), states, at, ends).sum().backward()
    # The head itself, transposed, is (6, V); every other such tensor is a chunk of logits.
    assert 0 < max(sizes) <= max(budget, 6 * VOCABULARY * 4)
    assert linear.weight.grad is None


def test_chunks_cover_every_cell_and_read_once():
    ends = (2, 2, 5, 9, 9, 10, 12)
    parts = list(chunks(ends, vocabulary=10, budget=2 * 4 * 10))
    assert [c.start for c, _ in parts][1:] == [c.stop for c, _ in parts][:-1]
    assert (parts[0][0].start, parts[-1][0].stop) == (0, 7)
    assert [r.start for _, r in parts][1:] == [r.stop for _, r in parts][:-1]
    assert (parts[0][1].start, parts[-1][1].stop) == (0, 12)
    assert all(c.stop - c.start <= 2 for c, _ in parts)


def test_nothing_to_read():
    linear = torch.nn.Linear(6, VOCABULARY).requires_grad_(False)
    empty = torch.zeros(0, dtype=torch.long)
    assert read_logprobs(
        linear, SimpleNamespace(vocab_size=VOCABULARY), torch.zeros(0, 6), (empty, empty), ()
    ).shape == (0,)

"""Choice of the device."""

import pytest
import torch

from skmatch._nn.device import resolve_device


def test_an_unknown_device_is_told_the_choices():
    with pytest.raises(ValueError, match=r"'gpu' is not known.*auto.*cpu.*cuda.*mps"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name}.*not available.*auto"):
        resolve_device(name)


def test_devices_that_are_there():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")

"""Errors as one line each, and which of them mean that memory is short."""

import pytest
import torch

from deconvseg.errors import InputError, describe, is_out_of_memory


def test_unforeseen_errors_are_one_line() -> None:
    assert describe(ValueError("odd\nand more"), "a\n.jpg") == "a\\n.jpg: ValueError: odd"
    assert describe(MemoryError(), "a.jpg").startswith("a.jpg: out of memory; ")
    assert describe(InputError("a.jpg: is empty"), "a.jpg") == "a.jpg: is empty"


def test_a_library_that_does_not_load_is_one_clear_line() -> None:
    error = ImportError("cannot import name 'Tensor'\nfrom torch", name="torch")
    reason = "cannot import name 'Tensor' from torch"
    assert describe(error) == f"torch does not load ({reason}); see what 'deconvseg doctor' says"


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, so: bool) -> None:
    assert is_out_of_memory(error) is so


def test_torch_says_it_in_these_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)

"""What devices can do, and how they say that memory is short."""

from __future__ import annotations

import pytest

from nemo_image_curate.compute import devices


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        # As they were seen: torch, torch with RMM's allocator, cuBLAS, torch on a CPU, DALI.
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("std::bad_alloc: out_of_memory: CUDA error at: cuda_memory_resource"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("CUDA allocation failed"), True),
        (RuntimeError("Can't allocate 17179869184 bytes on device 0."), True),
        # cuDNN, where no way to convolve fits.
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_memory_is_short(error, is_one):
    assert devices.is_out_of_memory(error) is is_one

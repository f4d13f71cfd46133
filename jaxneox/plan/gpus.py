"""NVIDIA's GPUs as XLA's compiler is told of them, and their rates.

XLA compiles for a GPU that is not there by a description of it, a `GpuTargetConfigProto` in the
text format of protocol buffers. The figures that differ between kinds are in `GPUS`.

Sources: what a description says (cores, clock, memory, caches, capability) is that of
github.com/openxla/xla, xla/backends/gpu/target_config/specs, where the same fields are read from
a device of the kind (h100_sxm, h200, a100_sxm_80, b200 .txtpb). Peak rates and links are NVIDIA's,
see each `source`; the network is that of NVIDIA's own host of eight, an adapter for each GPU:
docs.nvidia.com/dgx, user guides of DGX A100 (200 Gb/s), H100, H200 and B200 (400 Gb/s).
"""

from dataclasses import dataclass, replace

CUDNN = (9, 10, 1)
"""The version of cuDNN that programs are compiled for, and that JAX is told of."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as the driver reports it.
        capability: the compute capability, major and minor.
        accelerated: whether the compiler uses the features of this very architecture (sm_90a).
        cores: streaming multiprocessors.
        units: float32 units of one of them.
        clock: GHz.
        memory: bytes of main memory.
        bandwidth: of main memory, bytes/s.
        cache: bytes of the second-level cache.
        shared: bytes of memory that the threads of one multiprocessor share.
        block: of these, bytes that one block of threads can ask for.
        tflops: peak of dense bfloat16 products, TFLOP/s.
        nvlink: GB/s of a GPU to the others of its host, in each direction.
        network: GB/s of a GPU's adapter to other hosts, in each direction.
        source: where the last three are from.
    """

    name: str
    capability: tuple[int, int]
    accelerated: bool
    cores: int
    units: int
    clock: float
    memory: int
    bandwidth: int
    cache: int
    shared: int
    block: int
    tflops: float
    nvlink: float
    network: float
    source: str

    def target(self) -> str:
        """Write the description that XLA compiles for, `GpuTargetConfigProto` in text format."""
        major, minor = self.capability
        features = "ACCELERATED_FEATURES" if self.accelerated else "NONE"
        first, second, third = CUDNN
        return f"""gpu_device_info {{
  name: "{self.name}"
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
  core_count: {self.cores}
  fpus_per_core: {self.units}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.cache}
  shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.block}
{OF_ALL_KINDS}  dnn_version: "{first}.{second}.{third}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {first} minor: {second} patch: {third} }}
device_description_str: "{self.name}"
"""


OF_ALL_KINDS = """  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  runtime_version: "12.8.0"
  driver_version: "13.0.0"
  compile_time_toolkit_version: "12.8.0"
"""

H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    accelerated=True,
    cores=132,
    units=128,
    clock=1.98,
    memory=84942979072,
    bandwidth=3352320000000,
    cache=52428800,
    shared=233472,
    block=232448,
    tflops=989.4,  # half of the 1,979 that the page has for sparse matrices
    nvlink=450,
    network=50,
    source="nvidia.com/en-us/data-center/h100",
)
GPUS = {
    "a100": Gpu(
        name="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        accelerated=False,
        cores=108,
        units=64,
        clock=1.41,
        memory=85100068864,
        bandwidth=2039040000000,
        cache=41943040,
        shared=167936,
        block=166912,
        tflops=312,
        nvlink=300,
        network=25,
        source="nvidia.com/en-us/data-center/a100",
    ),
    "h100": H100,
    "h200": replace(
        H100,
        name="NVIDIA H200 141GB HBM3e",
        memory=151397597184,
        bandwidth=4800000000000,
        source="nvidia.com/en-us/data-center/h200",
    ),
    "b200": Gpu(
        name="NVIDIA B200",
        capability=(10, 0),
        accelerated=True,
        cores=148,
        units=128,
        clock=1.965,
        memory=191514411008,
        bandwidth=7672320000000,
        cache=132644864,
        shared=233472,
        block=232448,
        tflops=2250,
        nvlink=900,
        network=50,
        source="nvidia.com/en-us/data-center/hgx",
    ),
}

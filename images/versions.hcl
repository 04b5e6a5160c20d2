# Every version and digest that images are built from, once. What Debian and PyPI bring is in locks with hashes:
# base/debian.lock, requirements/device.lock and the platforms' own. An empty digest is one that nobody has read yet:
# `make pin-bases` reads it on a machine that reaches the registry.

variable "DEBIAN_PYTHON" { default = "3.11" }
variable "DEBIAN_GLIBC" { default = "2.36" }

# JetPack 6: L4T 36.4, CUDA 12.6, TensorRT 10.3.
variable "JP6_BASE" { default = "nvcr.io/nvidia/l4t-jetpack:r36.4.0" }
variable "JP6_DIGEST" { default = "" }
variable "JP6_PYTHON" { default = "3.10" }
variable "JP6_GLIBC" { default = "2.35" }

# JetPack 7: Ubuntu 24.04, CUDA 13.
variable "JP7_BASE" { default = "nvcr.io/nvidia/tensorrt:25.08-py3" }
variable "JP7_DIGEST" { default = "" }
variable "JP7_PYTHON" { default = "3.12" }
variable "JP7_GLIBC" { default = "2.39" }

# Interpreters of the bases above for the build platform: bytecode is compiled by the same minor version that runs it.
variable "PYTHON_3_10" { default = "docker.io/library/python:3.10-slim" }
variable "PYTHON_3_10_DIGEST" { default = "" }
variable "PYTHON_3_12" { default = "docker.io/library/python:3.12-slim" }
variable "PYTHON_3_12_DIGEST" { default = "" }

# Edge TPU runtime for `rpi`, Google's .debs by address and hash; empty: left out.
variable "EDGETPU_URL" { default = "" }
variable "EDGETPU_SHA256" { default = "" }

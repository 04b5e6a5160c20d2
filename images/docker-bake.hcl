# What is built: `docker buildx bake` reads this file after versions.hcl; `make image-…` (images/build.py) calls it.

variable "VERSION" { default = "0" }
variable "REVISION" { default = "" }
variable "CREATED" { default = "1970-01-01T00:00:00Z" }
variable "BASE_IMAGE" { default = "" }    # instead of the platform's own base
variable "COMPILER_IMAGE" { default = "" } # with it: an interpreter of the base's minor version, for the build platform
variable "PYTHON_VERSION" { default = "" } # with it: the minor version of its Python

function "pinned" {
  params = [image, digest]
  result = "docker-image://${image}${digest == "" ? "" : "@${digest}"}"
}

# A base that was given, or the platform's; nothing where it is our own Debian.
function "bases" {
  params = [base, compiler]
  result = {for name, image in {
    base     = BASE_IMAGE == "" ? base : "docker-image://${BASE_IMAGE}"
    compiler = BASE_IMAGE == "" ? compiler : COMPILER_IMAGE == "" ? "" : "docker-image://${COMPILER_IMAGE}"
  } : name => image if image != ""}
}

target "_image" {
  context    = "."
  dockerfile = "images/Dockerfile"
  target     = "image"
  args = {
    EDGETPU_SHA256 = ""
  }
  labels = {
    "org.opencontainers.image.title"    = "surefoot"
    "org.opencontainers.image.version"  = VERSION
    "org.opencontainers.image.revision" = REVISION
    "org.opencontainers.image.created"  = CREATED
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
}

# Ours: Debian bookworm, from images/base/debian.lock.
target "_debian" {
  inherits = ["_image"]
  args = {
    PYTHON_VERSION = BASE_IMAGE == "" ? DEBIAN_PYTHON : PYTHON_VERSION
    GLIBC          = DEBIAN_GLIBC
    LOCK           = "requirements/device.lock"
  }
  contexts = bases("", "")
  labels = {
    "org.opencontainers.image.base.name" = BASE_IMAGE == "" ? "surefoot-debian" : BASE_IMAGE
  }
}

# The base alone: what the tests build a Jetson's image on, where the vendor's cannot be had.
target "debian-arm64" {
  inherits  = ["_debian"]
  target    = "base"
  platforms = ["linux/arm64"]
}

group "generic" {
  targets = ["generic-amd64", "generic-arm64"]
}

target "generic-amd64" {
  inherits  = ["_debian"]
  platforms = ["linux/amd64"]
}

target "generic-arm64" {
  inherits  = ["_debian"]
  platforms = ["linux/arm64"]
}

target "rpi" {
  inherits  = ["_debian"]
  platforms = ["linux/arm64"]
  args = {
    EDGETPU_SHA256 = EDGETPU_SHA256
  }
}

target "generic-openvino" {
  inherits  = ["_debian"]
  platforms = ["linux/amd64"]
  args = {
    LOCK = "images/generic/openvino.lock"
  }
}

target "jetson-jp6" {
  inherits  = ["_image"]
  platforms = ["linux/arm64"]
  args = {
    PYTHON_VERSION = BASE_IMAGE == "" ? JP6_PYTHON : PYTHON_VERSION
    GLIBC          = JP6_GLIBC
    LOCK           = "images/jetson/jp6.lock"
  }
  contexts = bases(pinned(JP6_BASE, JP6_DIGEST), pinned(PYTHON_3_10, PYTHON_3_10_DIGEST))
  labels = {
    "org.opencontainers.image.base.name"   = BASE_IMAGE == "" ? JP6_BASE : BASE_IMAGE
    "org.opencontainers.image.base.digest" = BASE_IMAGE == "" ? JP6_DIGEST : ""
  }
}

target "jetson-jp7" {
  inherits  = ["_image"]
  platforms = ["linux/arm64"]
  args = {
    PYTHON_VERSION = BASE_IMAGE == "" ? JP7_PYTHON : PYTHON_VERSION
    GLIBC          = JP7_GLIBC
    LOCK           = "images/jetson/jp7.lock"
  }
  contexts = bases(pinned(JP7_BASE, JP7_DIGEST), pinned(PYTHON_3_12, PYTHON_3_12_DIGEST))
  labels = {
    "org.opencontainers.image.base.name"   = BASE_IMAGE == "" ? JP7_BASE : BASE_IMAGE
    "org.opencontainers.image.base.digest" = BASE_IMAGE == "" ? JP7_DIGEST : ""
  }
}

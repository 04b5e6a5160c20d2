from __future__ import annotations

from tests.parts.docker import Engine


def test_the_tests_engine_builds_and_exports_as_the_images_need(engine: Engine) -> None:
    assert "containerd" in engine.docker("info", "--format", "{{.DriverStatus}}").stdout
    assert engine.docker("buildx", "version").stdout.startswith("github.com/docker/buildx")

"""The reference model: MobileNetV3-Small at width 0.6 for Fashion-MNIST."""

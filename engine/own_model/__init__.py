"""A department's own models: ONNX slice or volume networks that metadata alone describes (docs/own-model.md)."""

"""Networks from elsewhere, as ONNX files → versions in the model repository. `importing` says how."""

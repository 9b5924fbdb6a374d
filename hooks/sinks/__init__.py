"""What a run measures, sent to where teams already look: TensorBoard, Weights & Biases, MLflow."""

"""Track metrics and artifacts: metrics.jsonl, wandb, TensorBoard, MLflow."""

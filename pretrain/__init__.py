"""Self-supervised pretraining of Vision Transformers for object detection."""

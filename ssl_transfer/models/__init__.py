"""Build backbones (timm, torchvision, our own), their initial weights and heads."""

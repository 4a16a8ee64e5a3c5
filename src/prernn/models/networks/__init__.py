"""Networks that torchvision and timm lack."""

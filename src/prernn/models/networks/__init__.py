"""Networks that torchvision and timm do not have."""

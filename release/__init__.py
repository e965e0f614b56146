"""What `make release` writes: manifests, images, what is in the images, where all that comes from, and checksums."""

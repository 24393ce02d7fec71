"""What decoding traces."""

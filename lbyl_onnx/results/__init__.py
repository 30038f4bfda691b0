"""What a compression gives back."""

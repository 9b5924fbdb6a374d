"""What an audit of an optimizer is made of: known gradients in, what it really does out."""

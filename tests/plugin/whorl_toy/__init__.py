"""Toy methods for whorl."""

"""What a long run will take, from a short profile of it."""

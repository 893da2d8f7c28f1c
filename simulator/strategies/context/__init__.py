"""Context parallelism: tokens of a sequence spread over ranks; attention must still see all keys and values."""

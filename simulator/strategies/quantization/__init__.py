"""Number formats of a served model: what weights, arithmetic and cache are stored and computed in."""

"""From a training checkpoint to a model that any server loads: shards in, the hub's layout out."""

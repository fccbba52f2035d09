"""quick"""
from __future__ import annotations
from dataclasses import dataclass, asdict
from nemo_image_curate.errors import ConfigError
@dataclass(frozen=True)
class Preprocessing:
    size: int
    resize_mode: str
    crop_pct: float
    interpolation: str
    mean: tuple
    std: tuple
    @classmethod
    def from_timm(cls, c):
        return cls(c["input_size"][-1], "squash" if c.get("crop_mode")=="squash" else "shortest", c.get("crop_pct",0.875), c["interpolation"], tuple(c["mean"]), tuple(c["std"]))
    def resized(self,h,w):
        import math
        S=math.floor(self.size/self.crop_pct)
        if self.resize_mode=="squash": return S,S
        return (S, int(S*w/h)) if h<=w else (int(S*h/w), S)
    def crop_offset(self,nh,nw):
        return int(round((nh-self.size)/2.0)), int(round((nw-self.size)/2.0))
    def to_dict(self): return asdict(self)

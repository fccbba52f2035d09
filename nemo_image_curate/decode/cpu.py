import io, os
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY","0")
from nemo_image_curate.decode.batch import DecodedBatch
class CpuDecoder:
    def __init__(self, preprocessing, num_threads=1, max_pixels=89478485, thumbnail_size=None):
        self.p=preprocessing; self.t=thumbnail_size; self.m=max_pixels; self.d=None
    def decode(self, data):
        import torch, numpy as np
        from PIL import Image
        from nvidia import nvimgcodec as n
        if self.d is None: self.d=n.Decoder(backends=[n.Backend(n.BackendKind.CPU_ONLY)],device_id=-99999,max_num_cpu_threads=1); self.dp=n.DecodeParams(apply_exif_orientation=False,color_spec=n.ColorSpec.SRGB)
        N=len(data); errors=[None]*N; kept=[]; px=[]; th=[]; w=[None]*N; h=[None]*N; f=[None]*N
        for i,b in enumerate(data):
            if b is None: errors[i]="missing"; continue
            try:
                im=Image.open(io.BytesIO(b)); w[i],h[i]=im.size; f[i]=im.format.lower()
                if im.size[0]*im.size[1]>self.m: errors[i]="too large: x"; continue
                r=self.d.decode(bytes(b), params=self.dp) if f[i]=="jpeg" and im.mode=="RGB" else None
                a=np.asarray(r.cpu()) if r is not None else np.asarray(im.convert("RGB"))
            except Exception as e: errors[i]=f"decode: {e}"; continue
            x=torch.from_numpy(np.ascontiguousarray(a)).permute(2,0,1)[None]
            nh,nw=self.p.resized(*a.shape[:2]); y=torch.nn.functional.interpolate(x,(nh,nw),mode=self.p.interpolation,antialias=True)
            t,l=self.p.crop_offset(nh,nw); px.append(y[:,:,t:t+self.p.size,l:l+self.p.size]); kept.append(i)
            if self.t: th.append(torch.nn.functional.interpolate(x,(self.t,self.t),mode="bilinear",antialias=True))
        p=torch.cat(px).float() if px else torch.empty(0,3,self.p.size,self.p.size)
        m=torch.tensor(self.p.mean).view(1,3,1,1)*255; s=torch.tensor(self.p.std).view(1,3,1,1)*255
        return DecodedBatch((p-m)/s,kept,errors,w,h,f,torch.cat(th) if th else None)

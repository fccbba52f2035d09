from nemo_image_curate.decode.preprocessing import Preprocessing
def image_decoder(p, device, *, num_threads, batch_size, max_pixels, thumbnail_size):
    from nemo_image_curate.decode.cpu import CpuDecoder
    return CpuDecoder(p, num_threads, max_pixels, thumbnail_size)

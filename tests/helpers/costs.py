"""The cost of the authors' network in closed form, to hold counted costs against."""

from echodfkd.models.students.convlstm import KERNEL_SIZE


def authors_macs_per_frame(blocks: int, layers: int, filters: int, size: int) -> int:
    """Multiply-accumulates of the authors' network for one frame of size x size pixels, in closed form.

    Gates, norms and biases are not counted.
    """
    total = filters * size**2  # the 1 x 1 head
    for level in range(blocks):
        width, pixels = filters * 2**level, (size // 2**level) ** 2
        first = 1 if level == 0 else width // 2
        inputs = [first] + [width] * (layers - 1)
        total += sum(KERNEL_SIZE**2 * (before + width) * 4 * width * pixels for before in inputs)
        if level < blocks - 1:
            total += KERNEL_SIZE**2 * 2 * width * width * pixels
    return total

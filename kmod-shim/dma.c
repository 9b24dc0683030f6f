// SPDX-License-Identifier: GPL-2.0
/*
 * The DMA card: QEMU's "edu" (1234:11e8), which copies pieces of its own 4 KiB of memory into main
 * memory and then interrupts. It knows nothing of the register map: the module keeps that in a
 * coherent buffer and plays the device's part, but the payload is put into the FIFO by the card.
 *
 * Its memory is filled, by DMA too, with 32-bit little-endian words that count from 0. Datagram s
 * is LENGTH(s) bytes of that from OFFSET(s). Every entry takes ENTRY bytes, which divide the FIFO:
 * so none goes round its end, which one transfer could not do.
 *
 * User space can write all of the map. What is read back of it is `consumer`, which is clamped,
 * `control` and `interrupt_mask`: where the card may write never depends on it.
 */
#include <linux/dma-map-ops.h>
#include <linux/timekeeping.h>

#include "shim.h"

#define EDU_IRQ_STATUS	0x24
#define EDU_IRQ_CLEAR	0x64
#define EDU_IRQ_DMA	0x100	/* the bit of both */
#define EDU_FROM	0x80
#define EDU_TO		0x88
#define EDU_COUNT	0x90
#define EDU_COMMAND	0x98
#define EDU_GIVE	0x5	/* go, to the card, interrupt */
#define EDU_FETCH	0x7	/* go, from the card, interrupt */
#define EDU_MEMORY	0x40000

#define FIFO		0x4000
#define SCRATCH		PAGE_ALIGN(RINGSHIM_REGISTERS + FIFO)
#define BUFFER		(SCRATCH + PAGE_SIZE)
#define PATTERN		4088	/* clear of the very end of its memory, and of range checks that are off by one */
#define ENTRY		1024
#define HEAD		24
#define LENGTH(s)	(ENTRY - HEAD - (s) % 8)
#define OFFSET(s)	(4 * ((s) * 13 % ((PATTERN - LENGTH(s)) / 4 + 1)))

int shim_dma_probe(struct shim *shim)
{
	struct shim_dma *dma = &shim->dma;
	struct device *dev = &shim->pdev->dev;

	/* Only where DMA is coherent is the buffer ordinary memory, to be mapped as such. */
	if (!dev_is_dma_coherent(dev) || dma_set_mask_and_coherent(dev, DMA_BIT_MASK(28)))
		return -ENODEV;
	dma->buffer = dmam_alloc_coherent(dev, BUFFER, &dma->bus, GFP_KERNEL);
	if (!dma->buffer)
		return -ENOMEM;
	shim->map = (void __iomem __force *)dma->buffer;
	shim->room = SCRATCH;
	spin_lock_init(&dma->lock);
	shim_dma_reset(shim);
	return 0;
}

/* With the card at rest. Nothing of an earlier opener is left. */
void shim_dma_reset(struct shim *shim)
{
	static const u32 identity[] = {
		RINGSHIM_MAGIC, RINGSHIM_VERSION, 0x11e8,
		RINGSHIM_HAS_INTERRUPT | RINGSHIM_HAS_TIME | RINGSHIM_HAS_DATE,
		RINGSHIM_REGISTERS, FIFO, ENTRY - HEAD, 1, 10 * ENTRY /* a transfer takes 100 ms */
	};
	struct shim_dma *dma = &shim->dma;
	u32 n;

	memset(dma->buffer, 0, BUFFER);
	for (n = 0; n < ARRAY_SIZE(identity); n++)
		shim_put(shim, 4 * n, identity[n]);
	for (n = 0; n < PATTERN / 4; n++)
		shim_put(shim, SCRATCH + 4 * n, n);
	dma->producer = dma->produced = dma->lost = dma->lost_bytes = dma->uploaded = 0;
}

static void dma_transfer(struct shim *shim, u32 from, u32 to, u32 count, u32 command)
{
	writel(from, shim->bar + EDU_FROM);
	writel(to, shim->bar + EDU_TO);
	writel(count, shim->bar + EDU_COUNT);
	writel(command, shim->bar + EDU_COMMAND);
}

/* What finds no room is made all the same, and lost; a level that cannot be is no room. */
static void dma_next(struct shim *shim)
{
	struct shim_dma *dma = &shim->dma;
	u32 level = dma->producer - shim_get(shim, SHIM_CHANNEL(0, consumer));
	u32 at = RINGSHIM_REGISTERS + dma->producer % FIFO + HEAD;

	dma->busy = true;
	dma->drop = level > FIFO - ENTRY;
	if (dma->uploaded)
		dma_transfer(shim, EDU_MEMORY + OFFSET(dma->produced),
			     dma->bus + (dma->drop ? SCRATCH : at), LENGTH(dma->produced), EDU_FETCH);
	else
		dma_transfer(shim, dma->bus + SCRATCH, EDU_MEMORY, PATTERN, EDU_GIVE);
}

/* The payload is in its place: the header in front of it, then `producer`. */
static void dma_store(struct shim *shim)
{
	struct shim_dma *dma = &shim->dma;
	u64 now = ktime_get_real_ns();
	u32 n, head[] = { RINGSHIM_MARK, LENGTH(dma->produced), dma->produced, dma->lost,
			  lower_32_bits(now), upper_32_bits(now) };

	for (n = 0; n < ARRAY_SIZE(head); n++)
		shim_put(shim, RINGSHIM_REGISTERS + dma->producer % FIFO + 4 * n, head[n]);
	dma->producer += ENTRY;
	shim_put(shim, SHIM_AT(status, ready), 1);
	shim_put(shim, SHIM_CHANNEL(0, producer), dma->producer);
}

static void dma_done(struct shim *shim)
{
	struct shim_dma *dma = &shim->dma;

	if (!dma->uploaded) {
		dma->uploaded = true;
	} else {
		if (dma->drop) {
			dma->lost_bytes += LENGTH(dma->produced);
			shim_put(shim, SHIM_CHANNEL(0, lost_bytes), dma->lost_bytes);
			shim_put(shim, SHIM_CHANNEL(0, lost), ++dma->lost);
		} else {
			dma_store(shim);
		}
		shim_put(shim, SHIM_CHANNEL(0, produced), ++dma->produced);
	}
	mb();	/* `producer` before the mask: pairs with the one in shim_look() */
	if (shim_get(shim, SHIM_AT(control, interrupt_mask)))
		shim_wake(shim);
	dma->busy = false;
	if (dma->running)
		dma_next(shim);
	else
		wake_up_all(&shim->wait);	/* shim_dma_stop() */
}

irqreturn_t shim_dma_interrupt(struct shim *shim)
{
	u32 why = readl(shim->bar + EDU_IRQ_STATUS);

	if (!why && shim->info.interrupts == RINGSHIM_INTERRUPTS_INTX)
		return IRQ_NONE;	/* another device's, on the same line */
	writel(why, shim->bar + EDU_IRQ_CLEAR);
	shim->interrupts++;
	spin_lock(&shim->dma.lock);
	if (why & EDU_IRQ_DMA && shim->dma.busy)
		dma_done(shim);
	else
		shim->spurious++;
	spin_unlock(&shim->dma.lock);
	return IRQ_HANDLED;
}

/* What is under way ends, and is stored; but nothing stops another thread from START. */
void shim_dma_stop(struct shim *shim)
{
	spin_lock_irq(&shim->dma.lock);
	shim->dma.running = false;
	spin_unlock_irq(&shim->dma.lock);
	wait_event_timeout(shim->wait, !READ_ONCE(shim->dma.busy), HZ);
}

/* What a device does when its doorbell rings: looks at `control`. */
void shim_dma_control(struct shim *shim)
{
	u32 control = shim_get(shim, SHIM_AT(control, control)), status = 0;

	if (control & RINGSHIM_DO_RESET) {
		shim_dma_stop(shim);
		shim_dma_reset(shim);
		shim_put(shim, SHIM_AT(control, control), control);
		status = RINGSHIM_IS_RESETTING;
	} else if (control & RINGSHIM_DO_RUN) {
		spin_lock_irq(&shim->dma.lock);
		shim->dma.running = true;
		if (!shim->dma.busy)
			dma_next(shim);
		spin_unlock_irq(&shim->dma.lock);
		status = RINGSHIM_IS_RUNNING;
	} else {
		shim_dma_stop(shim);
	}
	shim_put(shim, SHIM_AT(status, status), status);
}

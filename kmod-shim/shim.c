// SPDX-License-Identifier: GPL-2.0
/*
 * ringshim: hands a device with the register map of ringshim.h to one process, which is to be ringd.
 *
 *	# insmod ringshim.ko
 *	# dd if=/dev/ringshim0 bs=1024 count=1 | hexdump -C	# one read, one datagram
 *	# grep . /sys/class/ringshim/ringshim0/interrupts
 *	# ringd run fpga=shim:/dev/ringshim0			# who comes second gets EBUSY
 */
#include <linux/idr.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <asm/ioctls.h>

#include "shim.h"

#define SHIM_MINORS	64
#define SHIM_BAR	2		/* with the register map */
#define IVSHMEM_BELL	12		/* in BAR 0: peer << 16 | vector */

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define vm_flags_mod(vma, set, clear) ((vma)->vm_flags = ((vma)->vm_flags | (set)) & ~(clear))
#endif

/* Its name has changed with Linux 6.8. */
#define SHIM_IRQ_INTX	(PCI_IRQ_ALL_TYPES & ~(PCI_IRQ_MSI | PCI_IRQ_MSIX))

static bool intx;
module_param(intx, bool, 0444);
MODULE_PARM_DESC(intx, "use the interrupt line even where there is MSI-X or MSI");

static dev_t shim_devt;
static DEFINE_IDA(shim_minors);

void shim_wake(struct shim *shim)
{
	shim_put(shim, SHIM_AT(control, interrupt_mask), 0);
	if (wq_has_sleeper(&shim->wait)) {
		shim->wakeups++;
		wake_up_interruptible_all(&shim->wait);
	}
}

/* The interrupt's half of the wake handshake. One means "look", never "one datagram". */
static irqreturn_t shim_interrupt(int irq, void *cookie)
{
	struct shim *shim = cookie;
	u32 why;

	if (shim->dma.buffer)
		return shim_dma_interrupt(shim);
	why = shim_get(shim, SHIM_AT(status, interrupt_status));
	if (!why && shim->info.interrupts == RINGSHIM_INTERRUPTS_INTX)
		return IRQ_NONE;	/* another device's, on the same line */
	shim->interrupts++;
	if (!shim_get(shim, SHIM_AT(control, interrupt_mask)))
		shim->spurious++;
	shim_wake(shim);
	shim_put(shim, SHIM_AT(control, interrupt_clear), why);
	return IRQ_HANDLED;
}

static void shim_doorbell(struct shim *shim)
{
	shim_put(shim, SHIM_AT(control, doorbell), 1);
	if (shim->dma.buffer)
		shim_dma_control(shim);
	else if (shim->bar)
		writel(0, shim->bar + IVSHMEM_BELL);	/* vector 0 of peer 0, which is the device */
}

static void shim_control(struct shim *shim, u32 control)
{
	shim_put(shim, SHIM_AT(control, control), control);
	shim_doorbell(shim);
}

/* Nobody is left who would read: a FIFO device runs on, and counts what it loses. */
static void shim_quiet(struct shim *shim)
{
	shim_put(shim, SHIM_AT(control, interrupt_mask), 0);
	if (shim->dma.buffer)
		shim_dma_stop(shim);
	if (shim->dma.busy)
		pci_clear_master(shim->pdev);	/* it does not answer: cut off from the bus */
}

static int shim_open(struct inode *inode, struct file *file)
{
	struct shim *shim = container_of(inode->i_cdev, struct shim, cdev);
	int rc;

	down_write(&shim->lock);
	rc = shim->gone ? -ENXIO : shim->mapping ? -EBUSY : 0;
	if (!rc) {
		if (shim->dma.buffer)
			shim_dma_reset(shim);
		shim->mapping = file->f_mapping;
		shim->started = 0;
		file->private_data = shim;
		nonseekable_open(inode, file);
	}
	up_write(&shim->lock);
	return rc;
}

/* However the process ended. A mapping holds the file: none is left. */
static int shim_release(struct inode *inode, struct file *file)
{
	struct shim *shim = file->private_data;

	down_write(&shim->lock);
	if (!shim->gone)
		shim_quiet(shim);
	shim->mapping = NULL;
	up_write(&shim->lock);
	return 0;
}

static void shim_copy(struct shim *shim, u32 channel, u32 at, void *to, u32 length)
{
	u32 size = shim->info.fifo_bytes, part;
	void __iomem *fifo = shim->map + shim->fifo_offset + channel * size;

	at &= size - 1;
	part = min(length, size - at);
	memcpy_fromio(to, fifo + at, part);
	memcpy_fromio(to + part, fifo, length - part);
}

/* A datagram in a FIFO: where its payload is, and what `consumer` is to be when it has been taken. */
struct found {
	u32 channel, payload, after, length, sequence, lost;
};

/*
 * The first of the lowest channel that has one, else -EAGAIN. -EBADMSG is garbage, up to `after`:
 * the sequence of what comes next says how many went with it.
 */
static int shim_next(struct shim *shim, struct found *found)
{
	__le32 entry[4];
	u32 n, size;

	for (n = 0; n < shim->info.channels; n++) {
		u32 producer = shim_get(shim, SHIM_CHANNEL(n, producer));
		u32 consumer = shim_get(shim, SHIM_CHANNEL(n, consumer));
		u32 level = producer - consumer;

		if (!level)
			continue;
		*found = (struct found) { n, consumer + shim_head(shim), producer };
		if (level > shim->info.fifo_bytes || (level | consumer) & 7)
			return -EBADMSG;
		shim_copy(shim, n, consumer, entry, sizeof(entry));
		found->length = le32_to_cpu(entry[1]);
		found->sequence = le32_to_cpu(entry[2]);
		found->lost = le32_to_cpu(entry[3]);
		size = ALIGN(shim_head(shim) + found->length, 8);
		if (le32_to_cpu(entry[0]) != RINGSHIM_MARK ||
		    found->length > shim->info.max_datagram || size > level)
			return -EBADMSG;
		found->after = consumer + size;
		return 0;
	}
	return -EAGAIN;
}

/*
 * The consumer's half of the handshake: everything empty, it unmasks and looks again. What has come
 * meanwhile leaves it unmasked, because another thread may have gone to sleep on it.
 */
static int shim_look(struct shim *shim, struct found *found)
{
	int rc;

	if (shim->gone)
		return -EPIPE;
	/* Programs that only read or poll know nothing of START. Once: after a STOP it stays stopped. */
	if (!test_and_set_bit(0, &shim->started) &&
	    !(shim_get(shim, SHIM_AT(status, status)) & RINGSHIM_IS_RUNNING))
		shim_control(shim, RINGSHIM_DO_RUN);
	rc = shim_next(shim, found);
	if (rc != -EAGAIN)
		return rc;
	shim_put(shim, SHIM_AT(control, interrupt_mask), RINGSHIM_IRQ_DATA);
	mb();	/* the mask before `producer`: pairs with the device's, between the same two */
	return shim_next(shim, found);
}

/* One datagram, or -EAGAIN and unmasked. */
static ssize_t shim_take(struct shim *shim, char __user *to, size_t room)
{
	struct found found;
	ssize_t rc;

	if (mutex_lock_interruptible(&shim->serial))
		return -ERESTARTSYS;
	down_read(&shim->lock);
	rc = shim_look(shim, &found);
	if (rc == -EBADMSG) {
		shim->garbage++;
		shim_put(shim, SHIM_CHANNEL(found.channel, consumer), found.after);
	} else if (!rc && found.length > room) {
		rc = -EMSGSIZE;
	}
	if (rc)
		goto out;
	shim_copy(shim, found.channel, found.payload, shim->bounce, found.length);
	up_read(&shim->lock);
	rc = copy_to_user(to, shim->bounce, found.length) ? -EFAULT : found.length;
	down_read(&shim->lock);
	if (rc < 0 || shim->gone)
		goto out;
	shim_put(shim, SHIM_CHANNEL(found.channel, next_sequence), found.sequence + 1);
	shim_put(shim, SHIM_CHANNEL(found.channel, lost_told), found.lost);
	mb();	/* its bytes are read before their room is given back */
	shim_put(shim, SHIM_CHANNEL(found.channel, consumer), found.after);
out:
	up_read(&shim->lock);
	mutex_unlock(&shim->serial);
	return rc;
}

static ssize_t shim_read(struct file *file, char __user *to, size_t room, loff_t *at)
{
	struct shim *shim = file->private_data;
	bool wait = !(file->f_flags & O_NONBLOCK) && shim->info.interrupts;
	DEFINE_WAIT_FUNC(waiter, woken_wake_function);
	ssize_t rc;

	/* Queued before it looks: a wake-up in between is remembered, and wait_woken() returns. */
	add_wait_queue(&shim->wait, &waiter);
	while ((rc = shim_take(shim, to, room)) == -EAGAIN && wait) {
		if (signal_pending(current)) {
			rc = -ERESTARTSYS;
			break;
		}
		wait_woken(&waiter, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
	}
	remove_wait_queue(&shim->wait, &waiter);
	return rc;
}

static __poll_t shim_poll(struct file *file, poll_table *table)
{
	struct shim *shim = file->private_data;
	struct found found;
	int rc;

	poll_wait(file, &shim->wait, table);
	down_read(&shim->lock);
	rc = shim_look(shim, &found);
	up_read(&shim->lock);
	return rc == -EAGAIN ? 0 : rc == -EPIPE ? EPOLLHUP | EPOLLERR : EPOLLIN | EPOLLRDNORM;
}

static long shim_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct shim *shim = file->private_data;
	void __user *to = (void __user *)argument;
	struct found found = { };
	int rc = 0;

	if (command == RINGSHIM_IOC_INFO)
		return copy_to_user(to, &shim->info, sizeof(shim->info)) ? -EFAULT : 0;
	down_read(&shim->lock);
	if (shim->gone) {
		rc = -ENODEV;
	} else if (command == RINGSHIM_IOC_START || command == RINGSHIM_IOC_STOP) {
		set_bit(0, &shim->started);
		shim_control(shim, command == RINGSHIM_IOC_START ? RINGSHIM_DO_RUN : 0);
	} else if (command == RINGSHIM_IOC_DOORBELL) {
		shim_doorbell(shim);
	} else if (command == FIONREAD) {
		rc = shim_next(shim, &found);	/* only looks: garbage is read(2)'s to throw away */
	} else {
		rc = -ENOTTY;
	}
	up_read(&shim->lock);
	if (command != FIONREAD || (rc && rc != -EAGAIN))
		return rc;
	return put_user(found.length, (int __user *)to);
}

static unsigned long shim_pfn(struct shim *shim, unsigned long page)
{
	void *at = shim->dma.buffer + page * PAGE_SIZE;

	if (shim->gone)
		return PHYS_PFN(virt_to_phys((void *)shim->blank));
	if (!shim->dma.buffer)
		return PHYS_PFN(shim->start) + page;
	return is_vmalloc_addr(at) ? vmalloc_to_pfn(at) : PHYS_PFN(virt_to_phys(at));
}

/*
 * Page by page, at the first touch. Not in mmap, because only a mapping that is linked, as it is by
 * now, can be found to be taken away; and a range that was remapped as one may not be taken away
 * in parts.
 */
static vm_fault_t shim_fault(struct vm_fault *fault)
{
	struct shim *shim = fault->vma->vm_file->private_data;
	vm_fault_t rc;

	down_read(&shim->lock);
	rc = vmf_insert_pfn(fault->vma, fault->address, shim_pfn(shim, fault->pgoff));
	up_read(&shim->lock);
	return rc;
}

static const struct vm_operations_struct shim_vm_ops = { .fault = shim_fault };

static int shim_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct shim *shim = file->private_data;
	unsigned long pages = PAGE_ALIGN(shim->info.window_bytes) >> PAGE_SHIFT;
	unsigned long flags = VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP;

	if (!(vma->vm_flags & VM_MAYSHARE) || vma->vm_flags & VM_EXEC ||
	    vma->vm_pgoff >= pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	/*
	 * A device's memory changes by itself and must not be cached. What stands behind ivshmem's
	 * BAR, and behind a coherent buffer, is main memory, which the other side maps cached.
	 */
	if (!shim->bar)
		vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	vm_flags_mod(vma, flags, VM_MAYEXEC);
	vma->vm_ops = &shim_vm_ops;
	return READ_ONCE(shim->gone) ? -ENODEV : 0;
}

static const struct file_operations shim_fops = {
	.owner = THIS_MODULE,
	.open = shim_open,
	.release = shim_release,
	.read = shim_read,
	.poll = shim_poll,
	.unlocked_ioctl = shim_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = shim_mmap,
};

#define SHIM_COUNTER(counter)									\
static ssize_t counter##_show(struct device *dev, struct device_attribute *attr, char *to)	\
{												\
	return sysfs_emit(to, "%lu\n", READ_ONCE(container_of(dev, struct shim, dev)->counter));	\
}												\
static DEVICE_ATTR_RO(counter)
SHIM_COUNTER(interrupts);
SHIM_COUNTER(spurious);
SHIM_COUNTER(wakeups);
SHIM_COUNTER(garbage);

static struct attribute *shim_attrs[] = {
	&dev_attr_interrupts.attr, &dev_attr_spurious.attr,
	&dev_attr_wakeups.attr, &dev_attr_garbage.attr, NULL
};
ATTRIBUTE_GROUPS(shim);

/* When the driver has let go and the last file is closed: so long the minor number is taken. */
static void shim_free(struct device *dev)
{
	struct shim *shim = container_of(dev, struct shim, dev);

	if (dev->devt)
		ida_free(&shim_minors, MINOR(dev->devt));
	kvfree(shim->bounce);
	free_page(shim->blank);
	kfree(shim);
}

/* Nodes are root's, 0600, until udev gives them to the group: 60-ringshim.rules. */
static struct class shim_class = {
	.name = "ringshim",
	.dev_groups = shim_groups,
	.dev_release = shim_free,
};

static void shim_put_device(void *dev)
{
	put_device(dev);
}

/* Of a card that stands in shim_ids, BAR 0 is needed too. */
static int shim_map(struct shim *shim, bool listed)
{
	struct pci_dev *pdev = shim->pdev;
	struct device *dev = &pdev->dev;

	if (listed) {
		shim->bar = pcim_iomap(pdev, 0, 0);
		if (!shim->bar)
			return -ENOMEM;
	}
	if (shim->info.kind == RINGSHIM_KIND_DMA)
		return shim_dma_probe(shim);
	shim->start = pci_resource_start(pdev, SHIM_BAR);
	shim->room = pci_resource_len(pdev, SHIM_BAR);
	if (!(pci_resource_flags(pdev, SHIM_BAR) & IORESOURCE_MEM) || !PAGE_ALIGNED(shim->start) ||
	    shim->room < RINGSHIM_REGISTERS)
		return -ENODEV;
	if (!devm_request_mem_region(dev, shim->start, shim->room, "ringshim"))
		return -EBUSY;
	if (listed)	/* ivshmem: main memory stands behind it */
		shim->map = (void __iomem __force *)
			devm_memremap(dev, shim->start, shim->room, MEMREMAP_WB);
	else
		shim->map = devm_ioremap(dev, shim->start, shim->room);
	return IS_ERR_OR_NULL((void __force *)shim->map) ? -ENOMEM : 0;
}

/* Whether the map is there, and what it says: checked, and asked only this once. */
static int shim_identify(struct shim *shim)
{
	u32 magic = shim_get(shim, SHIM_AT(identity, magic));
	u32 version = shim_get(shim, SHIM_AT(identity, version));
	u32 offset = shim->fifo_offset = shim_get(shim, SHIM_AT(identity, fifo_offset));
	struct ringshim_info *info = &shim->info;

	info->features = shim_get(shim, SHIM_AT(identity, features));
	info->fifo_bytes = shim_get(shim, SHIM_AT(identity, fifo_bytes));
	info->max_datagram = shim_get(shim, SHIM_AT(identity, max_datagram));
	info->channels = shim_get(shim, SHIM_AT(identity, channels));
	info->rate = shim_get(shim, SHIM_AT(identity, rate));
	info->window_bytes = offset + (u64)info->channels * info->fifo_bytes;
	if (magic == RINGSHIM_MAGIC && version >> 16 == RINGSHIM_VERSION >> 16 &&
	    is_power_of_2(info->fifo_bytes) && info->fifo_bytes >= RINGSHIM_FIFO_MIN &&
	    info->fifo_bytes <= RINGSHIM_FIFO_MAX && info->channels &&
	    info->channels <= RINGSHIM_CHANNELS_MAX && offset >= RINGSHIM_REGISTERS &&
	    offset % 4096 == 0 && info->max_datagram &&
	    info->max_datagram <= info->fifo_bytes - shim_head(shim) &&
	    PAGE_ALIGN(info->window_bytes) <= shim->room)
		return 0;
	dev_err(&shim->pdev->dev,
		"not ours: magic %#x, version %#x, %u FIFOs of %u bytes from %#x, datagrams of %u, in %llu bytes\n",
		magic, version, info->channels, info->fifo_bytes, offset, info->max_datagram, shim->room);
	return -ENODEV;
}

static int shim_interrupts(struct shim *shim)
{
	struct pci_dev *pdev = shim->pdev;

	if (!(shim->info.features & RINGSHIM_HAS_INTERRUPT) ||
	    pci_alloc_irq_vectors(pdev, 1, 1, intx ? SHIM_IRQ_INTX : PCI_IRQ_ALL_TYPES) < 0)
		return 0;
	shim->info.interrupts = pdev->msix_enabled ? RINGSHIM_INTERRUPTS_MSIX :
				pdev->msi_enabled ? RINGSHIM_INTERRUPTS_MSI : RINGSHIM_INTERRUPTS_INTX;
	return devm_request_irq(&pdev->dev, pci_irq_vector(pdev, 0), shim_interrupt, IRQF_SHARED,
				dev_name(&shim->dev), shim);
}

/* Every step is undone by itself when this fails or the driver lets go, the last one first. */
static int shim_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct shim *shim = kzalloc(sizeof(*shim), GFP_KERNEL);
	int rc;

	if (!shim)
		return -ENOMEM;
	device_initialize(&shim->dev);
	shim->dev.class = &shim_class;
	shim->dev.parent = &pdev->dev;
	cdev_init(&shim->cdev, &shim_fops);
	init_rwsem(&shim->lock);
	mutex_init(&shim->serial);
	init_waitqueue_head(&shim->wait);
	shim->pdev = pdev;
	shim->info.abi = RINGSHIM_ABI;
	shim->info.kind = id->driver_data ?: RINGSHIM_KIND_FIFO;	/* new_id gives 0 */
	strscpy(shim->info.bus_id, pci_name(pdev), sizeof(shim->info.bus_id));
	pci_set_drvdata(pdev, shim);
	rc = devm_add_action_or_reset(&pdev->dev, shim_put_device, &shim->dev);
	if (rc)
		return rc;
	rc = ida_alloc_max(&shim_minors, SHIM_MINORS - 1, GFP_KERNEL);
	if (rc < 0)
		return rc;
	shim->dev.devt = shim_devt + rc;
	rc = dev_set_name(&shim->dev, "ringshim%d", rc) ?: pcim_enable_device(pdev) ?:
	     shim_map(shim, id->driver_data) ?: shim_identify(shim);
	if (rc)
		return rc;
	shim->bounce = kvmalloc(shim->info.max_datagram, GFP_KERNEL);
	shim->blank = get_zeroed_page(GFP_KERNEL);
	if (!shim->bounce || !shim->blank)
		return -ENOMEM;
	pci_set_master(pdev);
	return shim_interrupts(shim) ?: cdev_device_add(&shim->cdev, &shim->dev);
}

/* Who has it open keeps a node without a device: blank pages, hang-up, EPIPE. */
static void shim_remove(struct pci_dev *pdev)
{
	struct shim *shim = pci_get_drvdata(pdev);

	cdev_device_del(&shim->cdev, &shim->dev);
	down_write(&shim->lock);
	shim->gone = true;
	if (shim->mapping)
		unmap_mapping_range(shim->mapping, 0, 0, 1);
	shim_quiet(shim);
	shim_wake(shim);
	up_write(&shim->lock);
}

static const struct pci_device_id shim_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1110), .driver_data = RINGSHIM_KIND_FIFO },
	{ PCI_DEVICE(0x1234, 0x11e8), .driver_data = RINGSHIM_KIND_DMA },	/* edu */
	{ }
};
MODULE_DEVICE_TABLE(pci, shim_ids);

static struct pci_driver shim_driver = {
	.name = "ringshim",
	.id_table = shim_ids,
	.probe = shim_probe,
	.remove = shim_remove,
};

static int __init shim_init(void)
{
	int rc = alloc_chrdev_region(&shim_devt, 0, SHIM_MINORS, "ringshim");

	if (rc)
		return rc;
	rc = class_register(&shim_class);
	if (!rc) {
		rc = pci_register_driver(&shim_driver);
		if (rc)
			class_unregister(&shim_class);
	}
	if (rc)
		unregister_chrdev_region(shim_devt, SHIM_MINORS);
	return rc;
}
module_init(shim_init);

static void __exit shim_exit(void)
{
	pci_unregister_driver(&shim_driver);
	class_unregister(&shim_class);
	unregister_chrdev_region(shim_devt, SHIM_MINORS);
}
module_exit(shim_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Devices with the ringweir register map, for one process in user space");

// The smallest program: starting it costs what starting costs, and nothing else.
#if defined(__x86_64__)
extern "C" [[noreturn]] void _start() {
    asm volatile("mov $60, %eax\n\txor %edi, %edi\n\tsyscall");  // exit(0)
    __builtin_unreachable();
}
#else
int main() { return 0; }
#endif

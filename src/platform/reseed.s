# The program of warm.rs, for x86-64; 120 bytes of headers go before it. It exits with 0, or with what the kernel said.
        mov     eax, 2                  # open("/dev/urandom", O_WRONLY)
        lea     rdi, [rip + path]
        mov     esi, 1
        syscall
        mov     edi, eax                # ioctl(it, RNDRESEEDCRNG)
        mov     eax, 16
        mov     esi, 0x5207
        xor     edx, edx
        syscall
        mov     edi, eax                # exit(what that returned)
        mov     eax, 60
        syscall
path:   .asciz  "/dev/urandom"

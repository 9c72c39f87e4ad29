//! Compiles the CUDA kernels, where the program is built with such.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels();
}

#[cfg(feature = "cuda")]
fn kernels() {
    let folder = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compiled = cudaforge::KernelBuilder::new()
        .source_files(["src/layers/cuda/kernels.cu"])
        .out_dir(&folder)
        .args(["-std=c++17", "-O3"])
        .build_ptx()
        .unwrap_or_else(|error| panic!("the CUDA kernels do not compile: {error}"));
    compiled.write(folder.join("kernels.rs")).expect("cargo's folder can be written");
}
